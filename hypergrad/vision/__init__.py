"""Image classification: data, models, one training function, and the runs it leaves."""
