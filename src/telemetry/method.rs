//! The names of calls, as metrics and traces have them.

use demes_api::METHODS as OURS;

/// What stands for a call that does not exist. Anybody can make up names, with anything in them.
const OTHER: &str = "_OTHER";

/// Those of the standard services that a peer has.
const STANDARD: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The name of the call that a request's path asks for.
pub(super) fn method_of(path: &str) -> &'static str {
    let name = path.strip_prefix('/').unwrap_or(path);
    let ours = OURS.binary_search(&name).ok().map(|place| OURS[place]);
    ours.or_else(|| STANDARD.into_iter().find(|known| *known == name)).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_exist_are_named() {
        assert!(OURS.is_sorted());
        for name in OURS.iter().copied().chain(STANDARD) {
            assert_eq!(method_of(&format!("/{name}")), name);
        }
        for path in ["", "/", "/demes.v1.ClientService/", "/demes.v1.ClientService/Ana said"] {
            assert_eq!(method_of(path), OTHER, "{path}");
        }
    }
}
