"""By another author: forward functions, right rules, and what makes these wrong, by subject."""
