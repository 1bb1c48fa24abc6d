"""What else the same words and the same time buy: soft prompts, LoRA, steering vectors and instructions."""
