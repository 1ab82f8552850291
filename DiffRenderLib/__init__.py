"""What the panels of DeepDVR, NeRPSynth and XrayRegistration share. It knows Slicer and Qt; the library does not."""
