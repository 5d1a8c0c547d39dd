# Written by `make api`, for type checkers; at run time the folder finds its modules.

from .abcd import abcd as abcd
from .beam import beam as beam
from .best_of_n import best_of_n as best_of_n
from .bfs import bfs as bfs
from .code import code as code
from .dfs import dfs as dfs
from .dsearch import dsearch as dsearch
from .dsearch_r import dsearch_r as dsearch_r
from .dts import dts as dts
from .dts import dts_star as dts_star
from .epsilon_greedy import epsilon_greedy as epsilon_greedy
from .evosearch import evosearch as evosearch
from .fk import fk as fk
from .funnel import funnel as funnel
from .iterref import iterref as iterref
from .pg import pg as pg
from .plain import plain as plain
from .psp import psp as psp
from .published import published as published
from .random_search import random_search as random_search
from .rbf import rbf as rbf
from .rerd import rerd as rerd
from .ses import ses as ses
from .sop import sop as sop
from .svdd import svdd as svdd
from .tempered import tempered as tempered
from .threshold import threshold as threshold
from .tuned import tuned as tuned
from .zero_order import zero_order as zero_order

__all__: list[str]
