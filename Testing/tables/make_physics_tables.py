"""Write the tables of diffrender/physics/data, and SpekPy's half-value layers that they are measured against.

    python -m venv tables-venv
    tables-venv/bin/pip install spekpy==2.5.4 xraylib==4.3.0
    tables-venv/bin/python Testing/tables/make_physics_tables.py

The library reads the tables alone, and its users run nothing of this; kept so that anyone can see where each number
comes from, and make it again. What is written:

    mass_attenuation.csv    mu/rho of the elements, from xraylib
    energy_absorption.csv   mu_en/rho of the elements, worked out here from xraylib's cross sections (see `absorbed`)
    tube_spectra.csv        fluence of a tungsten anode for each kVp, from SpekPy
    materials.csv           densities and compositions, typed from the literature named in its header
    spekpy_hvl.csv          (beside this script) half-value layers and air kerma, from SpekPy

Numbers typed here from NIST's tables are asserted against what xraylib says, so that neither can be wrong alone.
"""

from pathlib import Path

import numpy as np
import spekpy
import xraylib

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "diffrender" / "physics" / "data"

ELEMENTS = [
    "H",
    "C",
    "N",
    "O",
    "F",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "Ar",
    "K",
    "Ca",
    "Ti",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Se",
    "Br",
    "Mo",
    "Sn",
    "I",
    "Cs",
    "Ba",
    "Gd",
    "W",
    "Pb",
]
LOWEST, HIGHEST = 10.0, 150.0  # [keV], diagnostic X-rays
EDGE = 0.01  # [keV] from an absorption edge to the rows beside it; xraylib's two lists of edges differ by up to 5 eV

ANODE_ANGLE = 12.0  # [degrees], of most general tubes
THIN = 0.5  # [mm Al] in the table: without any, photons that no patient ever meets would fill it
KVPS = range(40, 151)
FILTERS = ((2.5, 0.0), (3.0, 0.0), (4.0, 0.0), (2.5, 0.1), (3.5, 0.2))  # mm Al, mm Cu

ICRU = "ICRU Report 44 (1989), as in NIST's table 2 of NISTIR 5632"
MATERIALS = {  # density [g/cm3], mass fractions, source
    "air": (
        1.205e-3,
        {"C": 0.000124, "N": 0.755268, "O": 0.231781, "Ar": 0.012827},
        "NISTIR 5632; dry, near sea level",
    ),
    "water": (1.0, {"H": 0.111898, "O": 0.888102}, "NISTIR 5632"),
    "lung": (
        1.05,
        {"H": 0.103, "C": 0.105, "N": 0.031, "O": 0.749, "Na": 0.002, "P": 0.002, "S": 0.003, "Cl": 0.003, "K": 0.002},
        f"{ICRU}; without the air in it",
    ),
    "adipose": (
        0.95,
        {"H": 0.114, "C": 0.598, "N": 0.007, "O": 0.278, "Na": 0.001, "S": 0.001, "Cl": 0.001},
        ICRU,
    ),
    "soft-tissue": (
        1.06,
        {"H": 0.102, "C": 0.143, "N": 0.034, "O": 0.708, "Na": 0.002, "P": 0.003, "S": 0.003, "Cl": 0.002, "K": 0.003},
        ICRU,
    ),
    "blood": (
        1.06,
        {"H": 0.102, "C": 0.11, "N": 0.033, "O": 0.745, "Na": 0.001, "P": 0.001, "S": 0.002, "Cl": 0.003, "K": 0.002}
        | {"Fe": 0.001},
        ICRU,
    ),
    "cortical-bone": (
        1.92,
        {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225},
        ICRU,
    ),
    "iodine": (4.93, {"I": 1.0}, "the element alone; what it is dissolved in counts as blood"),
    "barium": (3.5, {"Ba": 1.0}, "the element alone"),
    "calcium": (1.55, {"Ca": 1.0}, "the element alone"),
    "aluminium": (2.699, {"Al": 1.0}, "NISTIR 5632"),
    "titanium": (4.54, {"Ti": 1.0}, "NISTIR 5632"),
    "steel": (
        8.0,
        {"Fe": 0.645, "Cr": 0.175, "Ni": 0.13, "Mo": 0.025, "Mn": 0.02, "Si": 0.005},
        "ASTM F138 (316L), the middle of its ranges",
    ),
    "cobalt-chrome": (8.3, {"Co": 0.65, "Cr": 0.28, "Mo": 0.06, "Mn": 0.005, "Si": 0.005}, "ASTM F75, middle values"),
    "copper": (8.96, {"Cu": 1.0}, "NISTIR 5632"),
    "tin": (7.31, {"Sn": 1.0}, "NISTIR 5632"),
    "tungsten": (19.3, {"W": 1.0}, "NISTIR 5632"),
    "lead": (11.35, {"Pb": 1.0}, "NISTIR 5632"),
    "csi": (4.51, {"I": 0.488451, "Cs": 0.511549}, "NISTIR 5632; a layer of needles is about 0.8 as dense"),
    "gos": (7.44, {"O": 0.084528, "S": 0.08469, "Gd": 0.830782}, "NISTIR 5632"),
    "bafbr": (5.1, {"Ba": 0.5811, "F": 0.0804, "Br": 0.3385}, "BaFBr by its formula; image plates"),
    "selenium": (4.5, {"Se": 1.0}, "NISTIR 5632"),
    "carbon": (1.7, {"C": 1.0}, "NISTIR 5632, graphite; tabletops and grids"),
}

# NIST's tables 3 and 4, mu/rho and mu_en/rho [cm2/g]; typed, to catch a table that is not what it should be.
NIST = {
    ("aluminium", 60): (0.2778, 0.1099),
    ("calcium", 60): (0.6578, None),
    ("iodine", 60): (7.579, None),
    ("lead", 100): (5.549, 1.976),
    ("copper", 60): (1.593, None),
    ("titanium", 60): (0.7661, None),
    ("water", 10): (5.329, 4.944),
    ("water", 30): (0.3756, 0.1557),
    ("water", 60): (0.2059, 0.03190),
    ("water", 100): (0.1707, 0.02546),
    ("water", 150): (0.1505, 0.02764),
    ("air", 10): (None, 4.742),
    ("air", 20): (None, 0.5389),
    ("air", 30): (None, 0.1537),
    ("air", 40): (None, 0.06833),
    ("air", 60): (None, 0.03041),
    ("air", 100): (None, 0.02325),
    ("air", 150): (None, 0.02496),
}


def nodes() -> np.ndarray:
    """Energies [keV] of the rows: the centres of the bins of the spectra, and both sides of every absorption edge.

    Half a keV apart up to 40 keV, where attenuation falls steeply: a straight line between logarithms is then good to
    2e-4, and exact at the centres of bins.
    """
    energies = {*np.arange(LOWEST, 40.5, 0.5), *np.arange(40.5, HIGHEST, 1.0), HIGHEST}
    for element in ELEMENTS:
        for shell in (xraylib.K_SHELL, xraylib.L1_SHELL, xraylib.L2_SHELL, xraylib.L3_SHELL):
            edge = edge_of(xraylib.SymbolToAtomicNumber(element), shell)
            if LOWEST + EDGE < edge < HIGHEST:
                energies |= {edge - EDGE, edge + EDGE}
    return np.array(sorted(round(float(e), 4) for e in energies))


def edge_of(z: int, shell: int) -> float:
    try:
        return xraylib.EdgeEnergy(z, shell)
    except ValueError:
        return 0.0


def absorbed(z: int, energy: float) -> float:
    """mu_en/rho [cm2/g] of an element: what photoelectrons and recoil electrons keep; fluorescence leaves.

    Bremsstrahlung of the electrons is below 0.1 % here, and left in. xraylib's own CS_Energy is not taken: it is 3 to
    35 % below NIST's tables from 20 to 80 keV (air, water, aluminium), which its issues 176 and 255 say too.
    Source: Seltzer, Radiat. Res. 136 (1993) 147, for what has to be taken away.
    """
    kept = xraylib.CS_Photo(z, energy) * (1.0 - fluorescent_share(z, energy))
    return kept + recoil(z, energy)


def fluorescent_share(z: int, energy: float) -> float:
    """Mean share of a photon's energy that leaves as fluorescence of K and L shells after it was absorbed."""
    edges = [edge_of(z, shell) for shell in (xraylib.K_SHELL, xraylib.L1_SHELL, xraylib.L2_SHELL, xraylib.L3_SHELL)]
    leaves, left = 0.0, 1.0  # left: of the vacancies, those not yet given to a shell
    if 0.0 < edges[0] < energy:
        k_shell, bright, k_line, alpha = left * (1 - 1 / xraylib.JumpFactor(z, xraylib.K_SHELL)), *k_light(z)
        # An alpha line leaves a vacancy in the L shell, an Auger electron one or two.
        leaves += k_shell * (bright * k_line + (bright * alpha + (1 - bright) * 1.5) * l_light(z))
        left -= k_shell
    if 0.0 < edges[3] < energy:
        reached = [n for n in (1, 2, 3) if edges[n] < energy]
        ionised = 1.0
        for n in reached:
            ionised /= xraylib.JumpFactor(z, n)  # the shells of xraylib are numbered K 0, L1 1, L2 2, L3 3
        leaves += left * (1 - ionised) * l_light(z)
    return leaves / energy


def k_light(z: int) -> tuple[float, float, float]:
    """Fluorescence yield of the K shell, mean energy of its lines [keV], and the alpha lines' share of them."""
    try:
        alpha, beta = (xraylib.RadRate(z, line) for line in (xraylib.KA_LINE, xraylib.KB_LINE))
        mean = alpha * xraylib.LineEnergy(z, xraylib.KA_LINE) + beta * xraylib.LineEnergy(z, xraylib.KB_LINE)
        return xraylib.FluorYield(z, xraylib.K_SHELL), mean / (alpha + beta), alpha / (alpha + beta)
    except ValueError:  # the lightest elements have no such lines
        return 0.0, 0.0, 0.0


def l_light(z: int) -> float:
    """Mean energy [keV] that leaves as fluorescence for a vacancy in the L shell."""
    try:
        return xraylib.FluorYield(z, xraylib.L3_SHELL) * xraylib.LineEnergy(z, xraylib.LA_LINE)
    except ValueError:
        return 0.0


def recoil(z: int, energy: float) -> float:
    """Compton scattering's share of mu_en/rho [cm2/g]: the recoil energy, averaged over angles of bound electrons."""
    angles = (np.arange(90) + 0.5) * np.pi / 90  # neither 0 nor 180 degrees, which xraylib refuses
    cross = np.array([xraylib.DCS_Compt(z, energy, float(a)) for a in angles]) * np.sin(angles)
    kept = np.array([1.0 - xraylib.ComptonEnergy(energy, float(a)) / energy for a in angles])
    return xraylib.CS_Compt(z, energy) * float((cross * kept).sum() / cross.sum())


def write(path: Path, header: str, columns: list[str], rows: list[list[str]]) -> None:
    lines = [*(f"# {line}".rstrip() for line in header.strip().splitlines()), ",".join(columns), *map(",".join, rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def check(tables: dict[str, np.ndarray], energies: np.ndarray) -> dict[str, float]:
    """Largest difference from NIST's numbers, light and heavy (lead) apart; fails beyond what a misprint could hide."""
    worst: dict[str, float] = {}
    for (material, energy), wanted in NIST.items():
        composition = MATERIALS[material][1]
        for (name, table), value in zip(tables.items(), wanted, strict=True):
            if value is not None:
                found = sum(
                    w * np.interp(energy, energies, table[:, ELEMENTS.index(e)]) for e, w in composition.items()
                )
                print(f"  {name:18} {material:12} {energy:4} keV: {100 * (found / value - 1):+.2f} %")
                kind = f"{name} of lead" if material == "lead" else name
                worst[kind] = max(worst.get(kind, 0.0), abs(found / value - 1))
    assert max(worst["mass_attenuation"], worst["mass_attenuation of lead"]) < 1e-3, "mass attenuation is not NIST's"
    assert worst["energy_absorption"] < 3e-3, "energy absorption is not NIST's"
    assert worst["energy_absorption of lead"] < 6e-2, "energy absorption of lead is not NIST's"
    return worst


def between(energies: np.ndarray) -> float:
    """Largest relative difference from the source half-way between two rows, for mass attenuation."""
    worst = 0.0
    for z in (xraylib.SymbolToAtomicNumber(e) for e in ELEMENTS):
        values = np.array([xraylib.CS_Total(z, float(e)) for e in energies])
        middles = (energies[1:] + energies[:-1]) / 2
        middles = middles[np.diff(energies) > 3 * EDGE]  # across an edge there is a jump
        straight = np.exp(np.interp(np.log(middles), np.log(energies), np.log(values)))
        source = [xraylib.CS_Total(z, float(e)) for e in middles]
        worst = max(worst, *abs(straight / source - 1))
    return worst


def make_elements() -> None:
    energies = nodes()
    numbers = [xraylib.SymbolToAtomicNumber(e) for e in ELEMENTS]
    tables = {
        "mass_attenuation": np.array([[xraylib.CS_Total(z, float(e)) for z in numbers] for e in energies]),
        "energy_absorption": np.array([[absorbed(z, float(e)) for z in numbers] for e in energies]),
    }
    worst = check(tables, energies)
    light, heavy = (100 * worst[f"energy_absorption{of}"] for of in ("", " of lead"))
    common = f"""
Columns are elements. Rows stand half a keV apart up to 40 keV, then at the centres of 1 keV bins; on each side of an
absorption edge there is one more. Between rows the logarithms run straight, at most {100 * between(energies):.2f} %
from the source.
Made by Testing/tables/make_physics_tables.py with xraylib {xraylib.__version__} (BSD licence; numbers are facts).
"""
    headers = {
        "mass_attenuation": f"""
Total mass attenuation mu/rho of elements [cm2/g], coherent scatter included.
Source: xraylib {xraylib.__version__}, CS_Total; T. Schoonjans et al., Spectrochim. Acta B 66 (2011) 776,
doi:10.1016/j.sab.2011.09.011. At most {100 * worst["mass_attenuation"]:.2f} % from J. H. Hubbell and S. M. Seltzer,
NISTIR 5632 (1995), doi:10.18434/T4D01F, where the two were compared (water, Al, Ca, Ti, Cu, I, Pb).
{common.strip()}
""",
        "energy_absorption": f"""
Mass energy absorption mu_en/rho of elements [cm2/g]: photoelectric absorption less the fluorescence that leaves, and
the recoil of Compton scattering.
Source: CS_Photo, CS_Compt, DCS_Compt, fluorescence yields, jump factors and lines of xraylib {xraylib.__version__};
what is taken away follows S. M. Seltzer, Radiat. Res. 136 (1993) 147. From NISTIR 5632, where the two were compared,
at most {light:.1f} % (air, water, Al), {heavy:.0f} % (Pb).
xraylib's own CS_Energy is not used: it is up to 35 % off NIST's values from 20 to 80 keV.
{common.strip()}
""",
    }
    for name, table in tables.items():
        rows = [[f"{e:.6g}", *(f"{value:.5g}" for value in row)] for e, row in zip(energies, table, strict=True)]
        write(DATA / f"{name}.csv", headers[name], ["energy_kev", *ELEMENTS], rows)


def make_materials() -> None:
    for name, (_, composition, _) in MATERIALS.items():
        total = sum(composition.values())
        assert abs(total - 1) < 2e-3, f"{name} adds up to {total}"
    rows = [
        [name, f"{density:g}", " ".join(f"{e}:{w:g}" for e, w in composition.items()), f'"{source}"']
        for name, (density, composition, source) in MATERIALS.items()
    ]
    header = """
Densities [g/cm3] and mass fractions of the elements; fractions are made to add up to 1 where they are read.
Sources are named in each row; NISTIR 5632 is J. H. Hubbell and S. M. Seltzer, Tables of X-Ray Mass Attenuation
Coefficients (1995), doi:10.18434/T4D01F, tables 1 and 2; ICRU Report 44 is Tissue Substitutes in Radiation Dosimetry
and Measurement (1989). Facts, in the public domain. Made by Testing/tables/make_physics_tables.py.
"""
    write(DATA / "materials.csv", header, ["name", "density", "composition", "source"], rows)


def tube(kvp: float) -> "spekpy.Spek":
    return spekpy.Spek(kvp=kvp, th=ANODE_ANGLE, dk=1.0, targ="W", z=100.0, mas=1.0)


def make_spectra() -> None:
    centres = np.arange(LOWEST + 0.5, HIGHEST, 1.0)
    columns = []
    for kvp in KVPS:
        energies, density = tube(kvp).filter("Al", THIN).get_spectrum()
        per_mm2 = np.asarray(density) / 100.0  # a bin is 1 keV wide, and a square centimetre 100 mm2
        column = np.zeros(len(centres))
        kept = energies > LOWEST
        column[: kept.sum()] = per_mm2[kept]
        assert np.allclose(energies[kept], centres[: kept.sum()])
        columns.append(column)
    rows = [
        [f"{e:g}", *("" if value == 0 else f"{value:.5g}" for value in row)]
        for e, row in zip(centres, np.array(columns).T, strict=True)
    ]
    header = f"""
Fluence of an X-ray tube, photons per mm2 and mAs at 1 m from the focus, in bins of 1 keV about energy_kev; a column for
each tube voltage [kVp]. Tungsten, anode angle {ANODE_ANGLE:g} degrees, constant potential, {THIN:g} mm of aluminium, no
air. Photons below {LOWEST:g} keV are left out.
Source: SpekPy {spekpy.__version__} (MIT licence), model casim, its default; G. Poludniowski, A. Omar, R. Bujila and P.
Andreo, Technical note: SpekPy v2.0, Med. Phys. 48 (2021) 3630, doi:10.1002/mp.14945.
Made by Testing/tables/make_physics_tables.py.
"""
    write(DATA / "tube_spectra.csv", header, ["energy_kev", *(str(k) for k in KVPS)], rows)


def make_layers() -> None:
    rows = []
    for kvp in (40, 50, 60, 65.5, 70, 77, 80, 85, 90, 100, 110, 120, 125, 140, 150):
        for aluminium, copper in FILTERS:
            s, other = (
                spekpy.Spek(kvp=kvp, th=ANODE_ANGLE, dk=0.5, targ="W", z=100.0, mas=1.0, mu_data_source=source)
                for source in ("pene", "nist")
            )
            for one in (s, other):
                one.multi_filter([("Al", aluminium), ("Cu", copper)])
            layers = (s.get_hvl1(), other.get_hvl1(), s.get_hvl1(matl="Cu"))
            numbers = (*layers, s.get_emean(), s.get_kerma(), s.get_flu() / 100.0)
            rows.append([f"{kvp:g}", f"{aluminium:g}", f"{copper:g}", *(f"{n:.6g}" for n in numbers)])
    header = f"""
SpekPy {spekpy.__version__} (MIT licence), model casim and coefficients of PENELOPE, its defaults (and those of NIST
where the column says so); tungsten, {ANODE_ANGLE:g} degrees, bins of 0.5 keV, no air, photons below 10 keV included:
first half-value layers of air kerma, mean energy, air kerma and fluence at 1 m.
Made by Testing/tables/make_physics_tables.py.
"""
    names = ("hvl_mm_al", "hvl_mm_al_nist", "hvl_mm_cu", "mean_kev", "kerma_ugy_per_mas", "fluence_per_mm2_mas")
    columns = ["kvp", "mm_al", "mm_cu", *names]
    write(HERE / "spekpy_hvl.csv", header, columns, rows)


if __name__ == "__main__":
    make_materials()
    make_elements()
    make_spectra()
    make_layers()
