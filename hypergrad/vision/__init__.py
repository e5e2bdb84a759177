"""Image classification: data, models, one training function, and the runs it leaves."""

from hypergrad.vision.predict import Classifier, Prediction, load

__all__ = ["Classifier", "Prediction", "load"]
