"""The units that the mini upstream predicts: k-means clusters of MFCCs, or of a layer of an earlier upstream.

    python tools/mini_upstream/units.py --work DIR --output units1                               # of MFCCs
    python tools/mini_upstream/units.py --work DIR --output units2 --checkpoint iteration1.pt    # of layer 3
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dct
from sklearn.cluster import MiniBatchKMeans
from transformers.audio_utils import mel_filter_bank

from network import HOP, SEED, WINDOW, frames_of, make_model
from speech import Speech
from speechmerge.files import atomic_file

UNITS = 100
LAYER = 3  # of 4
FITTED_ON = 1500  # utterances
FILTERS = torch.from_numpy(mel_filter_bank(WINDOW // 2 + 1, 40, 0.0, 8000.0, 16000).T.astype(np.float32))


def mfcc(wave: np.ndarray) -> np.ndarray:
    """(frames, 39): 13 cepstra with first and second differences, frame for frame where HuBERT has its own."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(torch.from_numpy(wave), WINDOW, HOP, window=window, center=False, return_complex=True)
    log = (FILTERS @ spectrum.abs().square() + 1e-6).log().numpy()
    cepstra = dct(log, axis=0, norm="ortho")[:13]
    slope = np.gradient(cepstra, axis=1)
    return np.concatenate([cepstra, slope, np.gradient(slope, axis=1)]).T


def layer_features(checkpoint: Path, layer: int):
    """wave -> (frames, d) of a layer of the network in a checkpoint."""
    model = make_model().eval()
    state = torch.load(checkpoint, weights_only=True)["model"]
    model.load_state_dict({name[len("model."):]: value for name, value in state.items() if name.startswith("model.")})

    @torch.no_grad()
    def features(wave: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            states = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
        return states[layer][0].float().numpy()

    return features


def cluster(speech: Speech, features) -> tuple[np.ndarray, float]:
    """uint8 units of all utterances one after the other, and the share of the variance that they explain."""
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(len(speech.lengths) - len(speech.held_out))[:FITTED_ON]
    sample = np.concatenate([features(speech[number]) for number in chosen]).astype(np.float32)
    mean, scale = sample.mean(0), sample.std(0) + 1e-5
    sample = (sample - mean) / scale
    means = MiniBatchKMeans(UNITS, random_state=SEED, batch_size=10000, n_init=3, max_iter=100).fit(sample)
    explained = 1 + means.score(sample) / np.square(sample).sum()
    units = [means.predict(((features(speech[n]) - mean) / scale).astype(np.float32)) for n in range(len(speech.lengths))]
    for number, row in enumerate(units):
        assert len(row) == frames_of(speech.lengths[number]), number
    return np.concatenate(units).astype(np.uint8), float(explained)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where speech.py wrote")
    parser.add_argument("--output", required=True, help="name of the units")
    parser.add_argument("--checkpoint", type=Path, help="cluster a layer of this network; default: MFCCs")
    parser.add_argument("--layer", type=int, default=LAYER)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.work / f"{args.output}.npy"
    if path.exists():
        print(f"{path}: already made")
        return
    features = layer_features(args.checkpoint, args.layer) if args.checkpoint else mfcc
    units, explained = cluster(Speech(args.work), features)
    with atomic_file(path, "wb") as file:
        np.save(file, units)
    print(f"{path}: {len(units)} frames, {len(np.unique(units))} units, {100 * explained:.1f} % of the variance explained")


if __name__ == "__main__":
    main()
