// Was this process asked to stop? Long commands look between two segments, so that what is written
// stays whole.
#pragma once
#include <stop_token>
#include <string>

namespace stuffed {

/// From now on SIGINT, SIGTERM, SIGHUP and SIGUSR1 only ask to stop: the first of a kind is
/// announced on standard error and remembered, a second one of the same kind acts as it would by
/// default. What was ignored before stays ignored (nohup).
///
/// Call it before LibTorch starts any thread: the signals are blocked in every thread and taken by
/// one of our own. No handler ever runs on a thread that computes, because oneDNN's matrix products
/// use the stack pointer as an ordinary register: a signal frame would be written into the heap.
void catch_signals();

/// From now on signals are not announced: another process of the same run does it.
void take_signals_quietly();

bool interrupted();

/// "SIGTERM"; of the first signal that came. Empty: none came.
std::string signal_name();

/// Throws Error{Interrupted} if a signal came, or this thread's work is not wanted any more.
void stop_if_interrupted();

/// From now on stop_if_interrupted() throws on the calling thread if `stop` asks for it, too.
void stop_thread_by(std::stop_token stop);

/// Throws Error{Interrupted} if a signal came over kGraceSeconds ago: for places inside a segment
/// that can be left and done again.
void leave_if_overdue();
inline constexpr double kGraceSeconds = 5;

}  // namespace stuffed
