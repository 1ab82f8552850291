"""Write water.csv, and check it against an independent library: `pip install xraylib scipy`, `python make_water.py`.

Not imported by the library, which reads the CSV alone; kept so that anyone can see where its numbers come from.
"""

import importlib
from pathlib import Path

# NIST X-Ray Mass Attenuation Coefficients, table 4, "Water, Liquid": energy [keV] -> mu/rho [cm2/g].
NIST = {
    10: 5.329,
    15: 1.673,
    20: 0.8096,
    30: 0.3756,
    40: 0.2683,
    50: 0.2269,
    60: 0.2059,
    80: 0.1837,
    100: 0.1707,
    150: 0.1505,
}

HEADER = """\
# Total mass attenuation of liquid water, coherent scatter included, density 1.000 g/cm3.
# Source: J. H. Hubbell and S. M. Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NISTIR 5632 (1995),
#   National Institute of Standards and Technology, doi:10.18434/T4D01F, table 4, "Water, Liquid". Public domain.
# Checked by make_water.py against xraylib {version}, CS_Total_CP("H2O", E): at most {at_nodes:.2f} % apart at these
#   energies, at most {between:.2f} % from 10 to 150 keV with the cubic spline that attenuation.py draws.
energy_kev,mass_attenuation_cm2_per_g
"""


def main() -> None:
    """Compare, then write. Fails where the two sources differ by more than a misprint could hide."""
    np, interpolate, xraylib = (importlib.import_module(name) for name in ("numpy", "scipy.interpolate", "xraylib"))

    def reference(energies):
        return np.array([xraylib.CS_Total_CP("H2O", float(energy)) for energy in energies])

    nodes, values = np.array(list(NIST)), np.array(list(NIST.values()))
    at_nodes = np.abs(reference(nodes) / values - 1).max()
    fine = np.arange(10, 150.25, 0.5)
    spline = np.exp(interpolate.CubicSpline(np.log(nodes), np.log(values))(np.log(fine)))
    between = np.abs(spline / reference(fine) - 1).max()
    print(f"largest difference: {at_nodes:.3%} at the nodes, {between:.3%} between them")
    assert at_nodes < 1e-3, "a number of the table differs from xraylib's"
    assert between < 3e-3, "the interpolation strays from xraylib's curve"
    header = HEADER.format(version=xraylib.__version__, at_nodes=100 * at_nodes, between=100 * between)
    rows = "".join(f"{energy},{value}\n" for energy, value in NIST.items())
    Path(__file__).with_name("water.csv").write_text(header + rows, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
