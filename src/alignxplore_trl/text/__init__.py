"""Every text that a model reads or writes: templates, the renderer, the token budget, the parser."""
