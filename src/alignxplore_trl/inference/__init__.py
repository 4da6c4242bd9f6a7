"""A trained model in use: descriptions of users, in one reading or round by round."""
