"""One page about a run, for a person: what the network is, what it did, where cycles went."""
