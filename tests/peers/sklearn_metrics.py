"""scikit-learn's word on pixel metrics: reads cases as JSON from stdin, writes the metrics as JSON.

A case is {"scores": [...], "labels": [...]}, labels 0, 1 or 255 (dropped).
"""

import json
import sys

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve


def metrics(case):
    labels = np.array(case["labels"])
    counted = labels != 255
    labels = labels[counted] != 0
    scores = np.array(case["scores"], dtype=np.float64)[counted]
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "ap": average_precision_score(labels, scores),
        "auroc": roc_auc_score(labels, scores),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
        "best_f1": f1.max(),
    }


json.dump([metrics(case) for case in json.load(sys.stdin)], sys.stdout)
