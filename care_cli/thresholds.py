"""The numbers that more than one place must agree on."""

STORED = 0.05  # confidence from which detections are kept
SHOWN = 0.2  # confidence from which they are shown where nothing is known about the model
PERSON = 0.1  # confidence from which a person's box is black in stored crops and blurred on pages
ONE_BEING = 0.5  # IoU from which a person's box and an animal's are of one body
SAME_CATEGORY = 0.7  # IoU above which boxes of one category are one
SPECIES = 0.5  # probability from which a classification says what species an animal is
