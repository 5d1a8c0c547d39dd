# Written by `make api`, for type checkers; at run time the folder finds its modules.

from .aesthetic import Aesthetic as Aesthetic
from .aesthetic import AestheticHead as AestheticHead
from .aesthetic import load_head as load_head
from .classifier import Classifier as Classifier
from .clip_score import CLIPScore as CLIPScore
from .colourfulness import Colourfulness as Colourfulness
from .combine import Awaited as Awaited
from .combine import Cached as Cached
from .combine import Constrained as Constrained
from .combine import Retried as Retried
from .combine import Threaded as Threaded
from .combine import Weighted as Weighted
from .combine import ZScored as ZScored
from .combine import cached as cached
from .combine import constrained as constrained
from .combine import retried as retried
from .combine import weighted as weighted
from .compressibility import Compressibility as Compressibility
from .compressibility import Incompressibility as Incompressibility
from .hps import HPS as HPS
from .image_reward import ImageReward as ImageReward
from .ocr import OCR as OCR
from .pick_score import PickScore as PickScore
from .vlm_judge import JudgeError as JudgeError
from .vlm_judge import LocalJudge as LocalJudge
from .vlm_judge import VLMJudge as VLMJudge
