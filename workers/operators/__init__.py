"""What operators ask about durable messages and do with them: `bkd message …` and `bkd store …`."""
