"""Exit statuses."""

#: All is well; it failed for a reason outside of the input; bad input; stopped, and nothing was saved.
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

#: Stopped by a signal with a checkpoint: the same again goes on from there (EX_TEMPFAIL of sysexits.h).
STOPPED = 75
