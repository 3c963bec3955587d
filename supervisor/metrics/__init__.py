"""What Prometheus and its like can scrape."""
