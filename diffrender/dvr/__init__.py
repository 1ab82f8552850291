"""Deep direct volume rendering: renderers that learn, from painted views, how a volume should look."""
