"""Results for people: tables and charts drawn from summaries and metrics."""
