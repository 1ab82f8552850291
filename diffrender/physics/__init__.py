"""The physics: how matter attenuates, how a detector sees."""
