"""The judging model: what it is asked, how it answers, and the backends that ask it."""
