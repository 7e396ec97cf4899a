"""What checks this library: every derivation against autodiff, and mistakes planted in right rules."""
