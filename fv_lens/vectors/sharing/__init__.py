"""Libraries of function vectors in folders and on the Hugging Face hub, with a card."""
