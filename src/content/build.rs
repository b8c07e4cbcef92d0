//! Compiles `proto/demes/content`, without a protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    println!("cargo:rerun-if-changed={proto}/demes/content");
    let descriptors = protox::compile(["demes/content/v1/content.proto"], [proto])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
