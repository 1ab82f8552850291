"""The arithmetic of rays: a plain torch twin and one fused kernel source for each kind of integral."""
