from dataclasses import dataclass
@dataclass(frozen=True)
class TrainOptions:
    x: int = 0
