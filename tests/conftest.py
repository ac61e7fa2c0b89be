"""What holds for all tests."""

from amaranth._unused import MustUse

# Tests describe hardware that they never build. Amaranth warns of it when it is collected, which
# may be in a later test, one that counts warnings.
MustUse._MustUse__silence = True  # type: ignore[attr-defined]
