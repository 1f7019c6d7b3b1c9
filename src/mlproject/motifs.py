"""Motifs in letters of IUPAC, and the restriction sites that go by the name of an enzyme."""

from collections.abc import Iterable
from types import MappingProxyType

from mlproject.errors import InputError
from mlproject.options import nearest

# Sets of bases as bits: A 1, C 2, G 4, T 8. Cornish-Bowden 1985, https://doi.org/10.1093/nar/13.9.3021
IUPAC = MappingProxyType(
    {
        **{"A": 1, "C": 2, "G": 4, "T": 8},
        **{"M": 3, "R": 5, "W": 9, "S": 6, "Y": 10, "K": 12},
        **{"V": 7, "H": 11, "D": 13, "B": 14, "N": 15},
    }
)
_COMPLEMENT = str.maketrans("ACGTMRWSYKVHDBN", "TGCAKYWSRMBDHVN")

# Recognition sites after REBASE, http://rebase.neb.com: those that cloning of reporter constructs is done with.
ENZYMES = MappingProxyType(
    {
        **{"AarI": "CACCTGC", "AatII": "GACGTC", "AflII": "CTTAAG", "AgeI": "ACCGGT", "AluI": "AGCT"},
        **{"ApaI": "GGGCCC", "AscI": "GGCGCGCC", "AsiSI": "GCGATCGC", "AvrII": "CCTAGG", "BamHI": "GGATCC"},
        **{"BbsI": "GAAGAC", "BglI": "GCCNNNNNGGC", "BglII": "AGATCT", "BpiI": "GAAGAC", "BsaI": "GGTCTC"},
        **{"BsiWI": "CGTACG", "BsmBI": "CGTCTC", "BsmI": "GAATGC", "BspEI": "TCCGGA", "BspQI": "GCTCTTC"},
        **{"BsrGI": "TGTACA", "BstBI": "TTCGAA", "BtgZI": "GCGATG", "ClaI": "ATCGAT", "DpnI": "GATC"},
        **{"DraI": "TTTAAA", "EagI": "CGGCCG", "EcoRI": "GAATTC", "EcoRV": "GATATC", "Esp3I": "CGTCTC"},
        **{"FseI": "GGCCGGCC", "HaeIII": "GGCC", "HhaI": "GCGC", "HindIII": "AAGCTT", "HpaI": "GTTAAC"},
        **{"KpnI": "GGTACC", "MfeI": "CAATTG", "MluI": "ACGCGT", "MspI": "CCGG", "NarI": "GGCGCC"},
        **{"NcoI": "CCATGG", "NdeI": "CATATG", "NheI": "GCTAGC", "NlaIII": "CATG", "NotI": "GCGGCCGC"},
        **{"NruI": "TCGCGA", "NsiI": "ATGCAT", "PacI": "TTAATTAA", "PaqCI": "CACCTGC", "PmeI": "GTTTAAAC"},
        **{"PmlI": "CACGTG", "PstI": "CTGCAG", "PvuI": "CGATCG", "PvuII": "CAGCTG", "RsrII": "CGGWCCG"},
        **{"SacI": "GAGCTC", "SacII": "CCGCGG", "SalI": "GTCGAC", "SapI": "GCTCTTC", "SbfI": "CCTGCAGG"},
        **{
            "ScaI": "AGTACT",
            "SfiI": "GGCCNNNNNGGCC",
            "SgrAI": "CRCCGGYG",
            "SmaI": "CCCGGG",
            "SnaBI": "TACGTA",
        },
        **{"SpeI": "ACTAGT", "SphI": "GCATGC", "StuI": "AGGCCT", "SwaI": "ATTTAAAT", "TaqI": "TCGA"},
        **{"XbaI": "TCTAGA", "XhoI": "CTCGAG", "XmaI": "CCCGGG"},
    }
)


def strands(motif: str) -> list[tuple[int, ...]]:
    """The motif as it reads on either strand, as sets of bases; once where both are the same."""
    both = (motif, motif.translate(_COMPLEMENT)[::-1])
    return list(dict.fromkeys(tuple(IUPAC[letter] for letter in strand) for strand in both))


def named(motif: str) -> str:
    """The motif, with the name of the first enzyme that cuts there."""
    names = [name for name, site in ENZYMES.items() if site == motif]
    return f"{motif} ({names[0]})" if names else motif


def parse_forbidden(words: Iterable[str]) -> tuple[str, ...]:
    """The motifs that words mean: the names of restriction enzymes in any case, or letters; each motif once.

    Raises:
        InputError: neither an enzyme that is known here nor letters of IUPAC.
    """
    sites = {name.lower(): site for name, site in ENZYMES.items()}
    motifs = []
    for word in filter(None, map(str.strip, words)):
        if word.lower() in sites:
            motifs.append(sites[word.lower()])
        elif set(word.upper()) <= set(IUPAC):
            motifs.append(word.upper())
        else:
            as_numeral = word.replace("1", "I").replace("2", "II")  # EcoR1
            hint = nearest(as_numeral, list(ENZYMES)) or "; write its site in letters"
            raise InputError(f"--forbid: found {word!r}, no enzyme known here and no motif in letters{hint}")
    return tuple(dict.fromkeys(motifs))
