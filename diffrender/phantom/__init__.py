"""A torso that we draw ourselves: the patient of the demo and the tests, free of anyone's data."""

from diffrender.phantom.drawing import torso

__all__ = ["torso"]
