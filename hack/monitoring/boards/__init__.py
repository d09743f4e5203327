"""The five boards. What each answers stands in its description."""

from typing import Final

from monitoring.board import Board
from monitoring.boards.elasticity import ELASTICITY
from monitoring.boards.path import PATH
from monitoring.boards.programs import PROGRAMS
from monitoring.boards.service import SERVICE
from monitoring.boards.workers import WORKERS

BOARDS: Final[tuple[Board, ...]] = (SERVICE, ELASTICITY, PATH, WORKERS, PROGRAMS)
