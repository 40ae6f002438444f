//! Where there are neither such signals nor such limits (Windows).

pub(super) fn explain_cut_mappings() {}

pub(super) fn explain_in_json(_: bool) {}

pub(super) fn raise_open_files(_: u64) -> u64 {
    u64::MAX
}

pub(super) fn hangup_is_ignored() -> bool {
    false
}

pub(super) fn ignore_hangup() {}
