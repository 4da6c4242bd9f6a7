"""Whether descriptions of users are any good: accuracies, truth in the world, and intervals."""
