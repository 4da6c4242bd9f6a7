"""All text that models read or write: templates, renderer, token budget, parser."""
