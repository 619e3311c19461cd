"""The embedded speech pair `demo-asr`: its sentences, voices, noises, models, and their training.

`sentences` and `voices` say what is spoken and by whom, `espeak` speaks it, `data` gathers it,
`acoustics` and `features` make it harder and turn it into log-mels, `models` and `fitting` hold and
train the pair, `scoring` and `measuring` judge it, `recipe` runs all of it and `card` tells of it.
Importing this package loads nothing heavy.
"""
