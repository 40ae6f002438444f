//! Which cores this process may use, and pinning a thread to one of them.

use core_affinity::CoreId;

/// The cores this process may run on, in ascending order; affinity masks and cpusets are respected.
/// Never empty: where the platform does not tell, as many numbers as it reports parallel threads.
pub fn available_cores() -> Vec<usize> {
    if let Some(world) = super::simulated::current() {
        return (0..world.cores()).collect();
    }
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    if cores.is_empty() {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        cores.extend(0..threads);
    }
    cores.sort_unstable();
    cores
}

/// Threads that work on the files of a run at the same time.
pub fn parallel_threads() -> usize {
    match super::simulated::current() {
        // All of a simulated world happens in one thread.
        Some(_) => 1,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Pins the calling thread to `core`. False where the platform cannot or the core is not ours;
/// the thread then runs where the scheduler puts it, which is slower and still correct.
pub fn pin_current_thread(core: usize) -> bool {
    // The crate aborts the process on a number beyond the system's masks.
    available_cores().contains(&core) && core_affinity::set_for_current(CoreId { id: core })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_an_available_core_only() {
        let cores = available_cores();
        assert!(cores.is_sorted(), "{cores:?}");
        let last = *cores.last().expect("available_cores is never empty");
        std::thread::spawn(move || {
            // Elsewhere the cores of the process are told, not those of the thread.
            if pin_current_thread(last) && cfg!(target_os = "linux") {
                assert_eq!(
                    available_cores(),
                    [last],
                    "the pinned thread sees its core only"
                );
            }
            assert!(!pin_current_thread(usize::from(u16::MAX)));
        })
        .join()
        .expect("the pinning thread passes its assertions");
    }
}
