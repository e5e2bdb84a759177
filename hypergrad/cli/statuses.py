"""Exit statuses."""

#: All is well; it failed for a reason outside of the input; bad input; stopped by Ctrl-C.
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
