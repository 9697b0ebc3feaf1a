//! What this crate promises, on the running kernel: root, real cgroups, v1-hybrid or v2.

mod lifecycle;
mod limits;
mod support;

#[test]
fn a_child_plays_its_role() {
    support::play_role();
}
