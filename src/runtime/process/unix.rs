//! Unix: SIGBUS, SIGHUP, RLIMIT_NOFILE.

use std::mem::MaybeUninit;
use std::ptr;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_os = "linux")]
macro_rules! cut_short {
    () => {
        "a file that is being read (the input, or one of the run folder) was cut short by another program, or \
         its disk failed; restore it and run the same command again to go on"
    };
}

/// What the process says at its end, as text and as JSON. It names no file: a signal handler can look nothing
/// up.
#[cfg(target_os = "linux")]
const CUT_SHORT: [&str; 2] = [
    concat!("error: ", cut_short!(), "\n"),
    concat!(r#"{"level":"ERROR","message":""#, cut_short!(), "\"}\n"),
];

#[cfg(target_os = "linux")]
static IN_JSON: AtomicBool = AtomicBool::new(false);

#[cfg(target_os = "linux")]
pub(super) fn explain_in_json(wanted: bool) {
    IN_JSON.store(wanted, Ordering::Relaxed);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn explain_in_json(_: bool) {}

#[cfg(target_os = "linux")]
pub(super) fn explain_cut_mappings() {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_bus_error as extern "C" fn(_, _, _) as libc::sighandler_t;
    // On the alternate stack that Rust gives each thread.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler calls only what is async-signal-safe. It replaces Rust's own, which tells
    // of stack overflows; on Linux these are SIGSEGV.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
}

/// Elsewhere a stack overflow is this signal too, which Rust explains itself.
#[cfg(not(target_os = "linux"))]
pub(super) fn explain_cut_mappings() {}

#[cfg(target_os = "linux")]
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `siginfo_t`; `write`, `signal` and `_exit` are
    // async-signal-safe, and the message is static.
    unsafe {
        if (*info).si_code == libc::BUS_ADRERR {
            let message = CUT_SHORT[usize::from(IN_JSON.load(Ordering::Relaxed))];
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(super::EXIT_STOPPED);
        }
        // Broken memory, or a defect: returning meets the signal again, now with its usual end.
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// `OPEN_MAX` of macOS.
const OPEN_MAX: libc::rlim_t = 10_240;

pub(super) fn raise_open_files(wanted: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only use the struct that is passed.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return u64::MAX;
        }
        let before = limit.rlim_cur;
        let wanted = libc::rlim_t::try_from(wanted).unwrap_or(libc::RLIM_INFINITY);
        if wanted > before {
            // macOS names no limit, and takes no more than this one.
            let fallback = OPEN_MAX.min(wanted).max(before);
            for limit_tried in [wanted.min(limit.rlim_max), fallback] {
                limit.rlim_cur = limit_tried;
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 {
                    break;
                }
                limit.rlim_cur = before;
            }
        }
    }
    #[allow(
        clippy::useless_conversion,
        reason = "the type is not u64 on every system"
    )]
    u64::from(limit.rlim_cur)
}

pub(super) fn hangup_is_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only fills the old one in; all zeros is valid before that.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

pub(super) fn ignore_hangup() {
    // SAFETY: installs no handler, only the disposition "ignore".
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}
