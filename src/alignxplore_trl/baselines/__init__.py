"""The methods we compare with, one file each: they describe users, or decide by themselves."""
