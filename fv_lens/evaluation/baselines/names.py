"""Names of the baselines, as tables have them."""

TUNED = "tuned vector"
SOFT_1, SOFT_5 = "soft prompt, 1 token", "soft prompt, 5 tokens"
LORA_ONE, LORA_ALL = "LoRA, injection layer", "LoRA, all layers"
ACTIVATION_ADDITION, MEAN_DIFFERENCE = "activation addition", "mean difference"
INSTRUCTION, OTHERS = "instruction", "other relations"
OTHERS_BEST, OTHERS_MEAN = "another relation's, best", "another relation's, mean"
TRAINED = (SOFT_1, SOFT_5, LORA_ONE, LORA_ALL)
BASELINES = (*TRAINED, ACTIVATION_ADDITION, MEAN_DIFFERENCE, INSTRUCTION, OTHERS_BEST)  # one of which is the best
METHODS = (*TRAINED, ACTIVATION_ADDITION, MEAN_DIFFERENCE, INSTRUCTION, OTHERS)
