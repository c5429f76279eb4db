"""The fields of a configuration that rates valence and arousal from 1 to 9."""

TWO = {
    "id2label": {0: "valence", 1: "arousal"},
    "label_mean": [5.0, 4.0],
    "label_std": [1.0, 2.0],
    "score_min": [1.0, 1.0],
    "score_max": [9.0, 9.0],
}
