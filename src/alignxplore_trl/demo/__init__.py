"""A page: a visitor chooses between replies, and watches a description form."""
