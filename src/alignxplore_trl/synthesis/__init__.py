"""Cold-start data: a teacher's candidates, verified by the judge."""
