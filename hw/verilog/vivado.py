"""A Tcl script for Vivado: packages a core, and builds a design for a Zynq-7000 around it.

It is written against the documents (UG835, UG1118, PG082, PG201); it has not been run.
"""

from __future__ import annotations

from typing import Any

from stillnet.sw.contract.config import EngineConfig

__all__ = ["BASE", "WEIGHTS_BASE", "vivado_script"]

BASE = 0x43C0_0000
"""Of the core's registers, as the processor sees them."""
BASE_BYTES = 1 << 12
WEIGHTS_BASE = 0x1800_0000
"""Of the weights in the processor's DDR memory: the upper 128 MB of 512."""

_PACKAGE = """\
# Packages {name} as IP and builds a Zynq-7000 design with it:
#
#   vivado -mode batch -source {name}_vivado.tcl -tclargs xc7z020clg400-1
#
# Written by stillnet against the documents, and not run: there was no Vivado.
#
#   registers and streams   {base:#x}, {base_bytes} bytes, from M_AXI_GP0
#   weights                 {weights:#x}, through S_AXI_HP0
#   interrupt               IRQ_F2P[0], level

set part [expr {{[llength $argv] > 0 ? [lindex $argv 0] : "xc7z020clg400-1"}}]
set here [file dirname [file normalize [info script]]]

# -- the IP ------------------------------------------------------------------------------------

create_project -in_memory -part $part
read_verilog [list $here/{name}.v $here/{name}_example.v]
set_property top {name}_example [current_fileset]
ipx::package_project -root_dir $here/{name}_ip -vendor stillnet -library engines \\
    -taxonomy /UserIP -import_files -force
set ip [ipx::current_core]
set_property name {name} $ip
set_property display_name "stillnet engine {name}" $ip
set_property description "configuration '{preset}', fingerprint {fingerprint}" $ip
# Vivado finds s_axi and m_axi by their names. Clock, reset and interrupt are said here.
ipx::infer_bus_interface aclk xilinx.com:signal:clock_rtl:1.0 $ip
ipx::infer_bus_interface aresetn xilinx.com:signal:reset_rtl:1.0 $ip
{interrupt}{associate}\
ipx::create_xgui_files $ip
ipx::update_checksums $ip
ipx::save_core $ip
close_project

# -- the design --------------------------------------------------------------------------------

create_project -force {name}_zynq $here/{name}_zynq -part $part
set_property ip_repo_paths $here/{name}_ip [current_project]
update_ip_catalog
create_bd_design system

set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 ps]
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \\
    -config {{make_external "FIXED_IO, DDR" Master "Disable" Slave "Disable"}} $ps
set_property -dict [list \\
    CONFIG.PCW_USE_M_AXI_GP0 1 \\
    CONFIG.PCW_USE_S_AXI_HP0 {hp} \\
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ 100 \\
    CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \\
    CONFIG.PCW_IRQ_F2P_INTR 1 \\
] $ps

set core [create_bd_cell -type ip -vlnv stillnet:engines:{name} core]
{base_parameter}\
set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset]
connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins reset/slowest_sync_clk] \\
    [get_bd_pins core/aclk] [get_bd_pins ps/M_AXI_GP0_ACLK]
connect_bd_net [get_bd_pins ps/FCLK_RESET0_N] [get_bd_pins reset/ext_reset_in]
connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins core/aresetn]
connect_bd_net [get_bd_pins core/irq] [get_bd_pins ps/IRQ_F2P]

proc join_buses {{name from to}} {{
    set bridge [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect $name]
    set_property CONFIG.NUM_SI 1 $bridge
    connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins $name/aclk]
    connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $name/aresetn]
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $name/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins $name/M00_AXI] [get_bd_intf_pins $to]
}}
join_buses registers ps/M_AXI_GP0 core/s_axi
{weights_bus}
assign_bd_address -offset {base:#x} -range {base_bytes} \\
    [get_bd_addr_segs -of_objects [get_bd_intf_pins core/s_axi]]
{weights_address}\
validate_bd_design
save_bd_design
make_wrapper -files [get_files system.bd] -top -import
set_property top system_wrapper [current_fileset]

# -- the bitstream -----------------------------------------------------------------------------

launch_runs impl_1 -to_step write_bitstream -jobs 2
wait_on_run impl_1
write_hw_platform -fixed -include_bit -force $here/{name}_zynq.xsa
"""


def vivado_script(config: EngineConfig, description: dict[str, Any]) -> str:
    """The script, for a core whose streams are registers.

    Parameters
    ----------
    config : EngineConfig
    description : dict
        What :func:`~stillnet.hw.verilog.describe.describe_core` says of the core.
    """
    axi4 = config.memory == "axi4"
    buses = ["s_axi", *(["m_axi"] if axi4 else [])]
    associate = "".join(
        f"ipx::associate_bus_interfaces -busif {bus} -clock aclk $ip\n" for bus in buses
    )
    interrupt = (
        "ipx::infer_bus_interface irq xilinx.com:signal:interrupt_rtl:1.0 $ip\n"
        "set kind [ipx::add_bus_parameter SENSITIVITY \\\n"
        "    [ipx::get_bus_interfaces irq -of_objects $ip]]\n"
        "set_property value LEVEL_HIGH $kind\n"
    )
    weights_bus = (
        "connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins ps/S_AXI_HP0_ACLK]\n"
        "join_buses weights core/m_axi ps/S_AXI_HP0\n"
    )
    return _PACKAGE.format(
        name=description["module"],
        preset=description["preset"],
        fingerprint=description["fingerprint"],
        base=BASE,
        base_bytes=BASE_BYTES,
        weights=WEIGHTS_BASE,
        associate=associate,
        interrupt=interrupt,
        hp=int(axi4),
        base_parameter=f"set_property CONFIG.MEMORY_BASE {WEIGHTS_BASE:#x} $core\n" if axi4 else "",
        weights_bus=weights_bus if axi4 else "",
        weights_address="assign_bd_address [get_bd_addr_segs ps/S_AXI_HP0/HP0_DDR_LOWOCM]\n"
        if axi4
        else "",
    )
