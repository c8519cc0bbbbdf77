"""Boxes followed from output to output: which is which, and how fast each one moves.

One Kalman filter per track, over place and velocity on the ground relative to the cameras, at constant velocity
(docs/methods/streamdsgn.md, Object tracking). Both axes have the same noise, so each track needs three variances alone.

Symbols: p place, v velocity, ``spread`` the variances of p and v and their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from effcli.detect_stream.data.frame_objects import FrameObjects

ACCELERATION_M_S2 = 3.0
"""Standard deviation of what changes the velocity."""

PLACE_M, PLACE_SHARE = 0.35, 0.01
"""Standard deviation of a detection's place: so much, and this share of its distance."""

FLOW_M_S = 5.0
"""Standard deviation of a velocity that the flow of the maps tells."""

FIRST_VELOCITY_M_S = 8.0
"""Standard deviation of the velocity of a track that begins; its mean is 0."""

FARTHEST_SIGMAS, FARTHEST_M_S = 4.0, 30.0
"""A detection farther from where a track should be is another object."""

BIRTH_SCORE = 0.2
"""Boxes that are less sure begin no track: there are many of them, and they draw others away."""

MOST_MISSED = 2
"""Outputs in which a track may be missing."""


@dataclass
class _Tracks:
    """All that are followed, one a row.

    Attributes:
        ids, kinds, missed: number, class and outputs since it was last seen, ``[M]``.
        p, v: metres and metres per second along X and Y, ``[M, 2]``.
        spread: variance of p, covariance, variance of v, ``[M, 3]``.
    """

    ids: np.ndarray
    kinds: np.ndarray
    missed: np.ndarray
    p: np.ndarray
    v: np.ndarray
    spread: np.ndarray

    def predict(self, seconds: float) -> None:
        """Move on at constant velocity."""
        self.p = self.p + self.v * seconds
        pp, pv, vv = self.spread.T
        noise = ACCELERATION_M_S2**2 * np.array([seconds**4 / 4, seconds**3 / 2, seconds**2])
        moved = np.stack([pp + 2 * seconds * pv + seconds**2 * vv, pv + seconds * vv, vv], 1)
        self.spread = moved + noise

    def correct_place(self, rows: np.ndarray, seen: np.ndarray, variance: np.ndarray) -> None:
        """Take in where some of them were seen, ``[K, 2]``, with what variance, ``[K]``."""
        pp, pv, vv = self.spread[rows].T
        gain_p, gain_v = pp / (pp + variance), pv / (pp + variance)
        off = seen - self.p[rows]
        self.p[rows] += gain_p[:, None] * off
        self.v[rows] += gain_v[:, None] * off
        self.spread[rows] = np.stack([(1 - gain_p) * pp, (1 - gain_p) * pv, vv - gain_v * pv], 1)

    def correct_velocity(self, rows: np.ndarray, seen: np.ndarray, variance: float) -> None:
        """Take in how fast some of them were seen to move, ``[K, 2]``."""
        pp, pv, vv = self.spread[rows].T
        gain_p, gain_v = pv / (vv + variance), vv / (vv + variance)
        off = seen - self.v[rows]
        self.p[rows] += gain_p[:, None] * off
        self.v[rows] += gain_v[:, None] * off
        self.spread[rows] = np.stack([pp - gain_p * pv, (1 - gain_v) * pv, (1 - gain_v) * vv], 1)

    def pick(self, chosen: np.ndarray) -> _Tracks:
        """Some of them, by a mask."""
        return _Tracks(*(getattr(self, one.name)[chosen] for one in fields(self)))

    def and_also(self, others: _Tracks) -> _Tracks:
        """These rows, then those of others."""
        return _Tracks(
            *(np.concatenate([getattr(self, f.name), getattr(others, f.name)]) for f in fields(self))
        )


def _no_tracks() -> _Tracks:
    flat, plane = np.zeros(0, int), np.zeros((0, 2))
    return _Tracks(flat, np.zeros(0, object), flat, plane, plane, np.zeros((0, 3)))


class BoxTracker:
    """Follows the boxes of one stream."""

    def __init__(self) -> None:
        self._born = 0
        self.reset()

    def reset(self) -> None:
        """Forget all tracks: a new scene begins. Their numbers are not used again."""
        self._tracks = _no_tracks()

    def move(self, seconds: float) -> None:
        """Move all tracks on, or back, as the moment that the next detections are for is another than was due."""
        self._tracks.predict(seconds)

    def follow(
        self, objects: FrameObjects, flow: np.ndarray | None, seconds: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take in the next output.

        Args:
            objects: what was detected.
            flow: velocities that the maps tell, relative to the cameras, metres per second, ``[N, 2]``; None where they
                tell none.
            seconds: since the output before.

        Returns:
            Numbers of the tracks ``[N]``, -1 for boxes that belong to none and are too unsure to begin one; and
            velocities ``[N, 2]``.
        """
        tracks, places = self._tracks, objects.boxes[:, :2]
        kinds = np.array(objects.kinds, object)
        variance = (PLACE_M + PLACE_SHARE * np.abs(places[:, 0])) ** 2
        tracks.predict(seconds)
        rows = _partners(tracks, places, kinds, variance, objects.scores, FARTHEST_M_S * seconds)
        known = rows >= 0
        tracks.correct_place(rows[known], places[known], variance[known])
        tracks.missed += 1
        tracks.missed[rows[known]] = 0
        new = _begun(kinds[~known], places[~known], variance[~known])
        sure = objects.scores[~known] >= BIRTH_SCORE
        new.ids[sure] = self._born + np.arange(sure.sum())
        self._born += int(sure.sum())
        rows[~known] = len(tracks.ids) + np.arange(len(sure))
        tracks = tracks.and_also(new)
        if flow is not None:
            tracks.correct_velocity(rows, flow, FLOW_M_S**2)
        self._tracks = tracks.pick((tracks.ids >= 0) & (tracks.missed <= MOST_MISSED))
        return tracks.ids[rows], tracks.v[rows]


def _begun(kinds: np.ndarray, places: np.ndarray, variance: np.ndarray) -> _Tracks:
    """Tracks without a number where things are first seen, ``[K, 2]``."""
    n = len(kinds)
    spread = np.stack([variance, np.zeros(n), np.full(n, FIRST_VELOCITY_M_S**2)], 1)
    return _Tracks(np.full(n, -1), kinds, np.zeros(n, int), places.astype(float), np.zeros((n, 2)), spread)


def _partners(
    tracks: _Tracks,
    places: np.ndarray,
    kinds: np.ndarray,
    variance: np.ndarray,
    scores: np.ndarray,
    farthest_m: float,
) -> np.ndarray:
    """Row of the track that each detection belongs to, -1 for none: the surest detection chooses first, ``[N]``."""
    partner = np.full(len(places), -1)
    if not len(places) or not len(tracks.ids):
        return partner
    squares = ((places[:, None] - tracks.p) ** 2).sum(2)
    sigmas = squares / (variance[:, None] + tracks.spread[:, 0])
    possible = (kinds[:, None] == tracks.kinds) & (sigmas <= FARTHEST_SIGMAS**2) & (squares <= farthest_m**2)
    cost = np.where(possible, sigmas, np.inf)
    for i in np.argsort(-scores, kind="stable"):
        j = int(cost[i].argmin())
        if np.isfinite(cost[i, j]):
            partner[i] = j
            cost[:, j] = np.inf
    return partner
