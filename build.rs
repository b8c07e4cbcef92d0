//! Compiles `proto/` for the package in `src/api`, without a protoc on the machine: protox reads
//! the files, prost-build makes the messages, and tonic-build makes the stubs through the
//! `ServiceGenerator` below.

use std::path::PathBuf;
use std::{env, fs};

use proc_macro2::TokenStream;
use prost::Message as _;

/// Seen from `src/api`.
const PROTO: &str = "../../proto";
const PROTO_FILES: [&str; 5] = ["types", "client", "host", "election", "peer"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let files = PROTO_FILES.map(|name| format!("{PROTO}/demes/v1/{name}.proto"));
    let descriptors = protox::compile(files, [PROTO])?;
    fs::write(out_dir.join("demes.bin"), descriptors.encode_to_vec())?;
    fs::write(out_dir.join("methods.rs"), methods(&descriptors))?;
    prost_build::Config::new()
        .bytes([".demes.v1.SealedMessage.sealed", ".demes.v1.Entry", ".demes.v1.Submission"])
        .service_generator(Box::new(Stubs))
        .compile_fds(descriptors)?;
    Ok(())
}

/// A sorted list of all calls, `package.Service/Method`, in Rust.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> String {
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|call| format!("{name}/{}", call.name())));
        }
    }
    methods.sort();
    format!("&{methods:?}")
}

/// Hands prost's services to tonic-build.
struct Stubs;

impl prost_build::ServiceGenerator for Stubs {
    fn generate(&mut self, service: prost_build::Service, out: &mut String) {
        let methods = |server| {
            service.methods.iter().cloned().map(move |method| Method { method, server }).collect()
        };
        let client = Service { methods: methods(false), service: service.clone() };
        let server = Service { methods: methods(true), service: service.clone() };
        let mut builder = tonic_build::CodeGenBuilder::new();
        builder.emit_package(true).build_transport(false);
        for tokens in [builder.generate_client(&client, ""), builder.generate_server(&server, "")] {
            let file = syn::parse2(tokens).expect("tonic-build writes Rust");
            out.push_str(&prettyplease::unparse(&file));
        }
    }
}

struct Service {
    service: prost_build::Service,
    methods: Vec<Method>,
}

struct Method {
    method: prost_build::Method,
    /// Whether the server's stub is made. It writes a feed from events that were encoded once for
    /// all readers.
    server: bool,
}

const FEED_RESPONSE: &str = "FeedResponse";
const FEED_FRAME: &str = "crate::feed::FeedFrame";

impl tonic_build::Service for Service {
    type Comment = String;
    type Method = Method;
    fn name(&self) -> &str {
        &self.service.name
    }
    fn package(&self) -> &str {
        &self.service.package
    }
    fn identifier(&self) -> &str {
        &self.service.proto_name
    }
    fn methods(&self) -> &[Method] {
        &self.methods
    }
    fn comment(&self) -> &[String] {
        &self.service.comments.leading
    }
}

impl tonic_build::Method for Method {
    type Comment = String;
    fn name(&self) -> &str {
        &self.method.name
    }
    fn identifier(&self) -> &str {
        &self.method.proto_name
    }
    fn codec_path(&self) -> &str {
        "tonic_prost::ProstCodec"
    }
    fn client_streaming(&self) -> bool {
        self.method.client_streaming
    }
    fn server_streaming(&self) -> bool {
        self.method.server_streaming
    }
    fn comment(&self) -> &[String] {
        &self.method.comments.leading
    }
    fn request_response_name(&self, _: &str, _: bool) -> (TokenStream, TokenStream) {
        let parse = |name: &str| format!("super::{name}").parse().expect("prost writes type names");
        let response = match self.method.output_type.as_str() {
            FEED_RESPONSE if self.server => {
                FEED_FRAME.parse().expect("a path is made of Rust's tokens")
            }
            name => parse(name),
        };
        (parse(&self.method.input_type), response)
    }
}
