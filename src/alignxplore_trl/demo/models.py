"""The models behind the page, which all visitors share."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from alignxplore_trl.demo.rounds import Visit
from alignxplore_trl.inference.descriptions import NotDescribedError
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.inference.replies import PersonalReply, PersonalReplyWriter
from alignxplore_trl.run.errors import UserError


@dataclass(frozen=True)
class DemoModels:
    """A model that describes and one that replies, asked for one visitor at a time.

    Models of this process can't be asked by two threads at once. Each call has a sampling of its
    own: after a failure, the same once more would fail again.
    """

    describer: PreferenceDescriber
    replies: PersonalReplyWriter
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    def read_choices(self, visit: Visit) -> Visit:
        """A visit whose choices have been read; or one that says why they could not be."""
        known = self.describer
        seed = known.seed + visit.failures * known.attempts
        describer = PreferenceDescriber(
            known.writer, known.name, attempts=known.attempts, seed=seed
        )
        try:
            with self._turn:
                if visit.description is None:
                    return visit.described(describer.describe(visit.chosen))
                return visit.described(describer.update(visit.description, visit.chosen))
        except (NotDescribedError, UserError) as error:
            return visit.failed(str(error))

    def reply(self, post: str, description: str, time: int) -> tuple[PersonalReply, PersonalReply]:
        """Two replies to a post: one told the description, one not, sampled alike.

        Args:
            post: what is replied to.
            description: of the visitor's preferences.
            time: which try it is, for another sampling.

        Raises:
            NotRepliedError: there was no reply.
            UserError: the model can't be asked.
        """
        known = self.replies
        writer = PersonalReplyWriter(
            known.model,
            known.prompts,
            temperature=known.temperature,
            judge=known.judge,
            candidates=known.candidates,
            seed=known.seed + time,
        )
        with self._turn:
            return writer.reply(post, description), writer.reply(post)
