"""Search for small networks: what ``compress`` fixes is chosen by trying, for one board.

``docs/explanation/search.md`` explains the method.
"""

from .options import Offer, SearchOptions
from .study import Search

__all__ = ["Offer", "Search", "SearchOptions"]
