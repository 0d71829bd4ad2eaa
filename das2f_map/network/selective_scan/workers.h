// Work shared by threads, for the kernels of this package.

#ifndef DAS2F_WORKERS_H
#define DAS2F_WORKERS_H

#include <atomic>
#include <exception>
#include <new>
#include <thread>
#include <vector>

// Runs `work` on `threads` threads, the calling one among them, or on fewer where the system gives no more.
// `work` first allocates its memory, then takes items until none is left: if one thread finishes, every item
// is done. Returns false if no thread finished, for lack of memory. Exceptions do not leave: the caller is
// not C++.
template <class Work>
bool run_on_threads(int threads, const Work &work) {
    std::atomic<bool> done{false};
    const auto guarded = [&] {
        try {
            work();
            done = true;
        } catch (const std::bad_alloc &) {
        }
    };
    std::vector<std::thread> pool;
    try {
        for (int i = 1; i < threads; ++i) pool.emplace_back(guarded);
    } catch (const std::exception &) {
    }
    guarded();
    for (std::thread &t : pool) t.join();
    return done;
}

#endif
