"""Words of weights times events, into accumulators."""
