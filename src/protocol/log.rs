#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Checkpoint {}
