"""Learn to describe a user's preferences from what the user did."""
