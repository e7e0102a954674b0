// The kernels in which a step spends its time on a device, as the 1.3B model in bf16 launches them.
// Compiled only: bench/kernels.py reads what ptxas and cuobjdump say of each.
#include <ctrain/backend/cuda/attention.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/cuda/dropout.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/embedding.hpp>
#include <ctrain/backend/cuda/launch.cuh>
#include <ctrain/backend/cuda/layer_norm.hpp>
#include <ctrain/backend/cuda/residual_norm.hpp>
#include <ctrain/backend/cuda/update.hpp>

namespace ctrain::cuda {

template __global__ void enter(const __grid_constant__ NormaliseRows<bf16, 8>);
template __global__ void enter(const __grid_constant__ NormaliseRowsSlope<bf16, 8>);
template __global__ void enter(const __grid_constant__ NormaliseParameterChunks<bf16, 8>);
template __global__ void enter(const __grid_constant__ AddNormaliseRows<bf16, bf16, 8>);
template __global__ void enter(const __grid_constant__ NormaliseRowsSlopeDrop<bf16, bf16, 8>);
template __global__ void enter(const __grid_constant__ DropRows<float, bf16, 8>);
template __global__ void enter(const __grid_constant__ DropRows<bf16, float, 8>);
template __global__ void enter(const __grid_constant__ EachElement<Convert<bf16, float>, 8>);
template __global__ void enter(
    const __grid_constant__ EachElement<Gelu<bf16, Activation::gelu_tanh>, 8>);
template __global__ void enter(
    const __grid_constant__ EachElement<GeluSlope<bf16, Activation::gelu_tanh>, 8>);
template __global__ void enter(const __grid_constant__ Attend<bf16, 64, true>);
template __global__ void enter(const __grid_constant__ Attend<bf16, 128, true>);
template __global__ void enter(const __grid_constant__ Attend<bf16, 256, true>);
template __global__ void enter(const __grid_constant__ AttendQueriesSlope<bf16, 64, true>);
template __global__ void enter(const __grid_constant__ AttendQueriesSlope<bf16, 128, true>);
template __global__ void enter(const __grid_constant__ AttendQueriesSlope<bf16, 256, true>);
template __global__ void enter(const __grid_constant__ AttendKeysSlope<bf16, 64, true>);
template __global__ void enter(const __grid_constant__ AttendKeysSlope<bf16, 128, true>);
template __global__ void enter(const __grid_constant__ AttendKeysSlope<bf16, 256, true>);
template __global__ void enter(const __grid_constant__ ContextSlopes<bf16, 8>);
template __global__ void enter(const __grid_constant__ SumChunks<bf16, 8>);
template __global__ void enter(const __grid_constant__ GatherEmbeddings<4>);
template __global__ void enter(const __grid_constant__ ScatterRows<4>);
template __global__ void enter(const __grid_constant__ SumSquaresChunks<float, 4>);
template __global__ void enter(
    const __grid_constant__ EachElement<AdamWOp<OptimizerKind::adamw_torch, float>, 4>);
template __global__ void enter(const __grid_constant__ EachElement<
                               AdamWIntoCopyOp<OptimizerKind::adamw_torch, float, bf16>, 8>);

}  // namespace ctrain::cuda
